-- Postpones a task, if it still exists.
-- KEYS: the tasks, from when they can be claimed.  ARGV: the ID, from when it can be claimed.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
