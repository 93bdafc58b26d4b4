-- Adds all messages, or holds those that are not due, or does nothing.
-- KEYS stream and delayed, by turns  ARGV whether a group is required, due time or 0, order and entry, by turns
-- → the id of each, 1 when held; {0, n} no topic of the nth, {-1, n} no group of it
local known = {}
for i = 1, #KEYS, 2 do
  local groups = known[KEYS[i]] or redis.pcall('XINFO', 'GROUPS', KEYS[i])
  known[KEYS[i]] = groups
  if fails(groups) then return {0, (i + 1) / 2} end
  if #groups == 0 and ARGV[(i - 1) / 2 * 3 + 1] == '1' then return {-1, (i + 1) / 2} end
end
local now, ids = clock(), {}
for i = 1, #KEYS, 2 do
  local at = (i - 1) / 2 * 3
  local due, blob = tonumber(ARGV[at + 2]), ARGV[at + 3]
  if due > now then
    redis.call('ZADD', KEYS[i + 1], due, blob)
    ids[#ids + 1] = 1
  else
    ids[#ids + 1] = redis.call('XADD', KEYS[i], '*', unpack(cmsgpack.unpack(string.sub(blob, 17)), 2))
  end
end
return ids
