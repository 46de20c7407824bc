-- Adds a piece of work, unless it is there.
-- KEYS: the work, when it is due.  ARGV: its id, itself, when it is due.
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[1])
