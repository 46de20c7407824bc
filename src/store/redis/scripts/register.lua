-- Registers live tokens under each of their holders, by their end. A known later end stays.
-- KEYS: the live tokens of each holder of each live token.
-- ARGV: now; then for each live token the number of its holders, its end, and itself.
local now, key = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 3 do
  local ending = tonumber(ARGV[i + 1])
  for _ = 1, ARGV[i] do
    key = key + 1
    redis.call('ZADD', KEYS[key], 'GT', ARGV[i + 1], ARGV[i + 2])
    redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', ARGV[1])
    if redis.call('PTTL', KEYS[key]) < ending - now then
      redis.call('PEXPIRE', KEYS[key], ending - now)
    end
  end
end
