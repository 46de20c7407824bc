-- Returns the ID of the data, the last position of the log, the number of tasks, and the earliest due time. Gives the
-- data an ID and the log an entry if there is none. Always writes, so that a Redis that takes no writes is found.
-- KEYS: the ID of the data, the log, the tasks, their first due times.  ARGV: an ID for data without one.
local id = redis.call('GET', KEYS[1]) or ARGV[1]
redis.call('SET', KEYS[1], id)
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local position = last and last[1] or redis.call('XADD', KEYS[2], '*', 'start', '')
local oldest = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
return {id, position, redis.call('HLEN', KEYS[3]), oldest[2] or false}
