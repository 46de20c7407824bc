-- Postpones a task, if it still exists: to its due time at least, since it may have become due later meanwhile.
-- KEYS: the tasks, from when they can be claimed, their first due times.  ARGV: the ID, from when it can be claimed.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  local due = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1])) or 0
  redis.call('ZADD', KEYS[2], math.max(tonumber(ARGV[2]), due), ARGV[1])
end
