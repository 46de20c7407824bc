-- Removes a piece of work, and tells every replica that it is done.
-- KEYS: the work, when it can be claimed, when it was to be done first.
-- ARGV: the channel, the id.
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
