-- Takes over what members that are gone hold on one stream, of an unordered group.
-- KEYS members, started, stream  ARGV group, me, limit, prefix of start marks
-- → {1, lost, entries}, {-1} session lost
if not live(KEYS[1], ARGV[2]) then return {-1} end
local group, left, lost, taken = ARGV[1], tonumber(ARGV[3]), 0, {}
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], -1, 0, 'WITHSCORES', 'LIMIT', 0, 16)
for i = 1, #gone, 2 do
  local name, crashed = gone[i], tonumber(gone[i + 1]) == 0
  if left <= 0 then break end
  local rows = redis.call('XPENDING', KEYS[3], group, '-', '+', left, name)
  for _, row in ipairs(rows) do
    local mark = ARGV[4] .. row[1]
    local count = row[4] + (crashed and 1 or 0)
    local entry = redis.call('XCLAIM', KEYS[3], group, ARGV[2], 0, row[1], 'RETRYCOUNT', count)[1]
    if not crashed or not entry then redis.call('HDEL', KEYS[2], mark) end
    if entry then
      taken[#taken + 1] = {entry[1], entry[2], count, redis.call('HEXISTS', KEYS[2], mark)}
    else
      lost = lost + 1
    end
  end
  left = left - #rows
  if left > 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[3], group, name) end
end
return {1, lost, taken}
