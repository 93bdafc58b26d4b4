-- Takes what is pending on a stream of an ordered lane, in order, whoever held it.
-- KEYS members, started, stream, lanes  ARGV group, me, lane, from, limit, prefix of start marks, hold_key
-- → {1, lost, entries with count, started, ms to wait and history of what was kept, last id looked at or '', last delivered id, crashed}, {-1} session lost, {-2} lane lost
local group, me = ARGV[1], ARGV[2]
if not live(KEYS[1], me) then return {-1} end
if redis.call('HGET', KEYS[4], ARGV[3]) ~= me then return {-2} end
local lost, taken, last, taken_over = 0, {}, '', 0
local rows = redis.call('XPENDING', KEYS[3], group, ARGV[4], '+', ARGV[5])
local crashed = {}
for _, row in ipairs(rows) do
  local name, mark = row[2], ARGV[6] .. row[1]
  last = row[1]
  if crashed[name] == nil then
    local score = redis.call('ZSCORE', KEYS[1], name)
    crashed[name] = name ~= me and (not score or tonumber(score) == 0)
  end
  local count = row[4] + (crashed[name] and 1 or 0)
  local entry = redis.call('XCLAIM', KEYS[3], group, me, 0, row[1], 'RETRYCOUNT', count)[1]
  if crashed[name] then taken_over = taken_over + 1 else redis.call('HDEL', KEYS[2], mark) end
  local hold = ARGV[7] == '1' and redis.call('HGET', KEYS[2], 'hold:' .. mark)
  if entry then
    local item = {entry[1], entry[2], count, redis.call('HEXISTS', KEYS[2], mark)}
    if hold then
      local due, history = string.match(hold, '^(%d+) (.*)$')
      item[5], item[6] = number(math.max(0, due - clock())), history
    end
    taken[#taken + 1] = item
  else
    if hold then redis.call('HDEL', KEYS[2], 'hold:' .. mark) end
    lost = lost + 1
  end
end
if #rows < tonumber(ARGV[5]) then last = '' end
local delivered = '0-0'
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[3])) do
  if info[2] == group then delivered = info[8] end
end
return {1, lost, taken, last, delivered, taken_over}
