-- Claims due tasks, or a certain one, and hides them from other replicas.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: now, the end of the lease, the maximum number of tasks; or an ID after them.
-- Returns for each task its ID, its payload, and its first due time.
local ids = ARGV[4] and {ARGV[4]} or redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
local claimed = {}
for _, id in ipairs(ids) do
  local task = redis.call('HGET', KEYS[1], id)
  if task then
    redis.call('ZADD', KEYS[2], ARGV[2], id)
    redis.call('ZADD', KEYS[3], 'NX', ARGV[1], id)
    claimed[#claimed + 1] = {id, task, redis.call('ZSCORE', KEYS[3], id)}
  else
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
  end
end
return claimed
