-- Notes under each of its holders that a grant lives until some time, unless a longer life is known.
-- KEYS: the grants of each holder, by their end.  ARGV: the time, the end, the grant.
local now, ending = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, grants in ipairs(KEYS) do
  redis.call('ZADD', grants, 'GT', ARGV[2], ARGV[3])
  redis.call('ZREMRANGEBYSCORE', grants, '-inf', ARGV[1])
  if redis.call('PTTL', grants) < ending - now then
    redis.call('PEXPIRE', grants, ending - now)
  end
end
