-- Stores each restriction that is newer than the stored one with its ID, and sends it to every replica.
-- KEYS: the active restrictions, their ends, and for each restriction the newest one with its ID.
-- ARGV: now, the channel, the length of a rank; then for each restriction: its ID, its rank and JSON, its end (0 if it
-- is not active), and for how many milliseconds it is remembered.
-- Returns for each restriction the one stored before, or an empty text.
local active, ends = KEYS[1], KEYS[2]
local now, channel, rank = ARGV[1], ARGV[2], tonumber(ARGV[3])

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('HDEL', active, id)
  redis.call('ZREM', ends, id)
end

local known = {}
for i = 3, #KEYS do
  local first = 4 + (i - 3) * 4
  local id, restriction, ending, remembered = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
  local old = redis.call('GET', KEYS[i]) or redis.call('HGET', active, id)
  if not old or string.sub(old, 1, rank) < string.sub(restriction, 1, rank) then
    redis.call('SET', KEYS[i], restriction, 'PX', remembered)
    if ending == '0' then
      redis.call('HDEL', active, id)
      redis.call('ZREM', ends, id)
    else
      redis.call('HSET', active, id, restriction)
      redis.call('ZADD', ends, ending, id)
    end
    redis.call('PUBLISH', channel, restriction)
  end
  known[#known + 1] = old or ''
end
return known
