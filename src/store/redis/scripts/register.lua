-- Registers live tokens: each in the hash of its user, by its end, and the user in the index. A known later end stays.
-- Returns 0 for a token that was known with this end, and 1 for others.
-- KEYS: for each live token the hash of its user, and a part of the index.
-- ARGV: now; then for each live token the user as a member of the index, the token's field and its value, which starts with
-- the end.
local END, SOME = 13, 8
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

-- A few: an organization can have very many users.
local function remove_some_ended(key)
  local ended = redis.call('ZRANGEBYSCORE', key, '-inf', now / 1000, 'LIMIT', 0, SOME)
  if ended[1] then
    redis.call('ZREM', key, unpack(ended))
  end
end

local lacked = {}
for i = 1, #KEYS / 2 do
  local tokens, users = KEYS[2 * i - 1], KEYS[2 * i]
  local user, field, value = unpack(ARGV, 3 * i - 1, 3 * i + 1)
  local ending = end_of(value)
  local known = redis.call('HGET', tokens, field)
  local known_end = known and end_of(known) or 0
  lacked[i] = known_end == ending and 0 or 1
  if known_end < ending then
    redis.call('HSET', tokens, field, value)
  end
  -- Now and then: most users have one or two live tokens.
  if not known and redis.call('HLEN', tokens) % SOME == 0 then
    remove_ended(tokens)
  end
  remove_some_ended(users)
  redis.call('ZADD', users, 'GT', math.ceil(ending / 1000), user)
  keep(tokens, ending)
  keep(users, ending)
end
return lacked
