-- Records a live token under each of its holders, with its end. A known later end stays.
-- KEYS: the live tokens of each holder, by their end.  ARGV: now, the end, the live token.
local now, ending = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, live_tokens in ipairs(KEYS) do
  redis.call('ZADD', live_tokens, 'GT', ARGV[2], ARGV[3])
  redis.call('ZREMRANGEBYSCORE', live_tokens, '-inf', ARGV[1])
  if redis.call('PTTL', live_tokens) < ending - now then
    redis.call('PEXPIRE', live_tokens, ending - now)
  end
end
