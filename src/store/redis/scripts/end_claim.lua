-- Ends the claim of a task: removes it, or puts back what is left of it. Without effect if it was removed, or has become due
-- later.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: the ID, when it was due, what is left of the task, and from when that can be claimed: without it, nothing is left.
local due = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not due or tonumber(due) > tonumber(ARGV[2]) then
  return
end
if ARGV[4] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
end
