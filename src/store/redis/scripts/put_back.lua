-- Replaces what is left of a task, unless it was completed or has become due later.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: the ID, what is left of the task, from when it can be claimed, when it was due.
local due = redis.call('ZSCORE', KEYS[3], ARGV[1])
if due and tonumber(due) <= tonumber(ARGV[4]) and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
