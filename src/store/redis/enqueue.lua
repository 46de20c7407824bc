-- Adds a task. If it exists, only its times change, and only to later ones.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: its ID, the task, from when it can be claimed, its due time.
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 'GT', ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], 'GT', ARGV[4], ARGV[1])
