-- Takes work that is due, and puts it off for everybody else.
-- KEYS: the work, when it can be claimed, when it was to be done first.
-- ARGV: the time, when others may have it, how many pieces at most.
-- Returns for each piece its id, itself, and when it was to be done first.
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local work = redis.call('HGET', KEYS[1], id)
  if work then
    redis.call('ZADD', KEYS[2], ARGV[2], id)
    redis.call('ZADD', KEYS[3], 'NX', ARGV[1], id)
    claimed[#claimed + 1] = {id, work, redis.call('ZSCORE', KEYS[3], id)}
  else
    redis.call('ZREM', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
  end
end
return claimed
