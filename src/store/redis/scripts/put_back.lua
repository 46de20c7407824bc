-- Replaces what is left of a task, if it still exists. It cannot be claimed before it is due.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: the ID, what is left of the task, from when it can be claimed.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  local due = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1])) or 0
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], math.max(due, tonumber(ARGV[3])), ARGV[1])
end
