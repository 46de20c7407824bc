-- Removes a piece of work, and tells every replica that it is done.
-- KEYS: the work, when it is due.  ARGV: the channel, the id.
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
