-- Has a piece of work wait until some time, if it is still there.
-- KEYS: the work, when it can be claimed.  ARGV: the id, when it can be claimed.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
