-- Removes a task, unless it has become due later.
-- KEYS: the tasks, from when they can be claimed, their first due times.  ARGV: the ID, when the task was due.
local due = redis.call('ZSCORE', KEYS[3], ARGV[1])
if due and tonumber(due) > tonumber(ARGV[2]) then
  return
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
