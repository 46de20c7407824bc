-- Records each restriction that is newer than the recorded one with its ID, and appends it to the log. If one is new, or
-- if there is none, stores the tasks that do not exist.
-- KEYS: the restrictions, the active ones by their end, the ended ones by when they are forgotten, the log, the tasks, from
-- when they can be claimed, their first due times.
-- ARGV: now, for how long a timestamp is remembered, the maximum number of ended ones, the length of the log, the number of
-- restrictions; then for each restriction its ID and its row; then for each task its ID, the task, its due time. A row starts with its rank: 1 digit, 15 digits for the timestamp of the event, 1 for a restriction
-- that restricts and 0 for another, 15 digits for its end. The same restriction with another end is not new.
-- Returns for each restriction the row before.
local restrictions, active, ended, log, tasks, claimable, due = unpack(KEYS)
local now, remembered_for, max_ended = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local RANK, PRECEDENCE, AT_ONCE = 32, 17, 100

local function sort_in(id, row)
  -- Foreign data counts as forgotten.
  local at, ending = tonumber(string.sub(row, 2, 16)) or 0, tonumber(string.sub(row, 18, RANK)) or 0
  if string.sub(row, 17, 17) == '1' and ending > now then
    redis.call('ZREM', ended, id)
    redis.call('ZADD', active, ending, id)
  else
    redis.call('ZREM', active, id)
    redis.call('ZADD', ended, math.max(ending, at + remembered_for), id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', active, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
  sort_in(id, redis.call('HGET', restrictions, id) or '')
end

local surplus = redis.call('ZCARD', ended) - max_ended
local forgotten = redis.call('ZCOUNT', ended, '-inf', now)
local removed = math.min(AT_ONCE, math.max(surplus, forgotten))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ended, '-inf', '+inf', 'LIMIT', 0, removed)) do
  redis.call('HDEL', restrictions, id)
  redis.call('ZREM', ended, id)
end

local before, first_task = {}, 6 + 2 * tonumber(ARGV[5])
local is_any_new = first_task == 6
for i = 6, first_task - 1, 2 do
  local id, row = ARGV[i], ARGV[i + 1]
  local old = redis.call('HGET', restrictions, id)
  is_any_new = is_any_new or not old or string.sub(old, 1, PRECEDENCE) < string.sub(row, 1, PRECEDENCE)
  if not old or string.sub(old, 1, RANK) < string.sub(row, 1, RANK) then
    redis.call('HSET', restrictions, id, row)
    sort_in(id, row)
    redis.call('XADD', log, 'MAXLEN', '~', ARGV[4], '*', 't', 'restriction', 'v', row)
  end
  before[#before + 1] = old
end
if is_any_new then
  for i = first_task, #ARGV, 3 do
    if redis.call('HSETNX', tasks, ARGV[i], ARGV[i + 1]) == 1 then
      redis.call('ZADD', claimable, ARGV[i + 2], ARGV[i])
      redis.call('ZADD', due, ARGV[i + 2], ARGV[i])
    end
  end
end
return before
