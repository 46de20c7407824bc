-- Returns the ID of the data in this Redis, which gets one if it has none. Always writes, so that a read-only Redis is
-- detected.
-- KEYS: the ID.  ARGV: an ID for data without one.
local id = redis.call('GET', KEYS[1]) or ARGV[1]
redis.call('SET', KEYS[1], id)
return id
