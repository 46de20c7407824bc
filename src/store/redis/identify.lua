-- Gives the data in this Redis an id, unless it has one, and returns its id. It writes in any case, so that a Redis that
-- takes no writes is found out.
-- KEYS: the id.  ARGV: an id to give.
local id = redis.call('GET', KEYS[1]) or ARGV[1]
redis.call('SET', KEYS[1], id)
return id
