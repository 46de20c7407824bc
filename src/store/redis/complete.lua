-- Removes a task, and tells every replica that it is completed.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: the channel, the ID.
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
