-- Stores each fact that is newer than what is known about the same, and tells every replica of it.
-- KEYS: the facts that hold, when they end, and for each fact what was last said about the same.
-- ARGV: the time, the channel, the length of a rank; then for each fact: its id, its rank and itself, when it ends
-- (0 if it does not hold), and for how many milliseconds it is remembered.
-- Returns for each fact what was known before, or an empty text.
local holding, ends = KEYS[1], KEYS[2]
local now, channel, rank = ARGV[1], ARGV[2], tonumber(ARGV[3])

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('HDEL', holding, id)
  redis.call('ZREM', ends, id)
end

local known = {}
for i = 3, #KEYS do
  local first = 4 + (i - 3) * 4
  local id, fact, ending, remembered = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
  local old = redis.call('GET', KEYS[i]) or redis.call('HGET', holding, id)
  if not old or string.sub(old, 1, rank) < string.sub(fact, 1, rank) then
    redis.call('SET', KEYS[i], fact, 'PX', remembered)
    if ending == '0' then
      redis.call('HDEL', holding, id)
      redis.call('ZREM', ends, id)
    else
      redis.call('HSET', holding, id, fact)
      redis.call('ZADD', ends, ending, id)
    end
    redis.call('PUBLISH', channel, fact)
  end
  known[#known + 1] = old or ''
end
return known
