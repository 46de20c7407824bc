-- Records each restriction that is newer than the recorded one with its ID, and appends it to the log. If one is new, or
-- if there is none, stores the tasks that do not exist. Before that, forgets some restrictions that ended long ago, or exceed
-- the limit of ended ones.
-- KEYS: the restrictions, their ends, the log, the tasks, from when they can be claimed, their first due times.
-- ARGV: now, how long a restriction is remembered after its end, the maximum number of ended ones, the length of the log,
-- the number of restrictions; then for each its ID, its row, and a text or nothing: if the recorded row has this text, it is
-- only confirmed, and the restriction is not new; then for each task its ID, the task, its due time. A row starts with its
-- rank: 1 digit, 15 digits for the timestamp of the event, 1 for a restriction that restricts and 0 for another, 15 digits
-- for its end. The same restriction with another end is not new.
-- Returns for each restriction the row before. What has no rank is no row, and is replaced.
local restrictions, ends, log, tasks, claimable, due = unpack(KEYS)
local PRECEDENCE, END, RANK, ANY_ROW, AT_ONCE = 17, 18, 32, '^' .. string.rep('%d', 32) .. '.*', 100

local surplus = redis.call('ZCOUNT', ends, '-inf', ARGV[1]) - ARGV[3]
local forgotten = redis.call('ZCOUNT', ends, '-inf', ARGV[1] - ARGV[2])
local removed = math.min(AT_ONCE, math.max(surplus, forgotten))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', ARGV[1], 'LIMIT', 0, removed)) do
  redis.call('HDEL', restrictions, id)
  redis.call('ZREM', ends, id)
end

local function is_new(old, row, text)
  local is_confirmed = old and text ~= '' and string.find(old, text, 1, true)
  return not old or (string.sub(old, 1, PRECEDENCE) < string.sub(row, 1, PRECEDENCE) and not is_confirmed)
end

local before, first_task = {}, 6 + 3 * ARGV[5]
local is_any_new = first_task == 6
for i = 6, first_task - 1, 3 do
  local id, row, text_if_confirmed = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = string.match(redis.call('HGET', restrictions, id) or '', ANY_ROW) or false
  is_any_new = is_any_new or is_new(old, row, text_if_confirmed)
  if not old or string.sub(old, 1, RANK) < string.sub(row, 1, RANK) then
    redis.call('HSET', restrictions, id, row)
    redis.call('ZADD', ends, string.sub(row, END, RANK), id)
    redis.call('XADD', log, 'MAXLEN', '~', ARGV[4], '*', 'restriction', row)
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
