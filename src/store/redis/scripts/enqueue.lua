-- Adds tasks. Of a task that exists only the times change, and only to later ones.
-- KEYS: the tasks, from when they can be claimed, their first due times.
-- ARGV: for each task its ID, the task, from when it can be claimed, its due time.
for i = 1, #ARGV, 4 do
  redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 2], ARGV[i])
  redis.call('ZADD', KEYS[3], 'GT', ARGV[i + 3], ARGV[i])
end
