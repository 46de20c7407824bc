-- Adds a piece of work. If it is there, only its times change, and only to later ones.
-- KEYS: the work, when it can be claimed, when it was to be done first.
-- ARGV: its id, itself, when it can be claimed, when it is to be done.
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 'GT', ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], 'GT', ARGV[4], ARGV[1])
