-- Registers live tokens: each in the hash of its user, by its end, and the user with each holder of the token in the
-- index. A known later end stays. Returns 1 for a token that was not known, or with an earlier end, and 0 for others.
-- KEYS: for each live token the hash of its user, and for each of its holders two sorted sets of the index. The second is
-- for what the first has no room for.
-- ARGV: now; then for each live token its end, the number of its holders, its field and its value, which starts with the
-- end; then for each holder the user as its member.
local MOST, END, SOME = 128, 13, 8
local now = tonumber(ARGV[1])

local function keep(key, ending)
  local left = math.max(ending - now, 1)
  if redis.call('PTTL', key) < left then
    redis.call('PEXPIRE', key, left)
  end
end

local function end_of(value)
  return tonumber(string.sub(value, 1, END)) or 0
end

local function remove_ended(key)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if end_of(fields[i + 1]) <= now then
      redis.call('HDEL', key, fields[i])
    end
  end
end

local function index(first, second, ending, member)
  local key, seconds = first, math.ceil(ending / 1000)
  redis.call('ZREMRANGEBYSCORE', first, '-inf', now / 1000)
  if redis.call('ZCARD', first) >= MOST and not redis.call('ZSCORE', first, member) then
    key = second
    redis.call('ZREMRANGEBYSCORE', second, '-inf', now / 1000)
  end
  redis.call('ZADD', key, 'GT', seconds, member)
  keep(key, ending)
end

local key, argument, lacked = 1, 2, {}
while argument <= #ARGV do
  local user, ending, holders = KEYS[key], tonumber(ARGV[argument]), tonumber(ARGV[argument + 1])
  local field, value = ARGV[argument + 2], ARGV[argument + 3]
  key, argument = key + 1, argument + 4
  local known = redis.call('HGET', user, field)
  lacked[#lacked + 1] = 0
  if not known or end_of(known) < ending then
    redis.call('HSET', user, field, value)
    lacked[#lacked] = 1
  end
  -- Now and then: most users have one or two live tokens.
  if not known and redis.call('HLEN', user) % SOME == 0 then
    remove_ended(user)
  end
  keep(user, ending)
  for _ = 1, holders do
    index(KEYS[key], KEYS[key + 1], ending, ARGV[argument])
    key, argument = key + 2, argument + 1
  end
end
return lacked
