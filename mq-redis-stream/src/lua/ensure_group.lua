-- KEYS meta, groups  ARGV topic, group, settings, start, past, create, inbox
-- → {made, settings}, {-1} no topic, {-2} no group, {-3} the past needs retention
local topic, group, create = ARGV[1], ARGV[2], ARGV[6] == '1'
local count = redis.call('HGET', KEYS[1], 'partitions')
if not count then
  if redis.call('EXISTS', topic) == 0 then return {-1} end
  count = 1
end
count = tonumber(count)
local stored = redis.call('HGET', KEYS[2], group)
if not stored and create and ARGV[5] == '1' and redis.call('HEXISTS', KEYS[1], 'retention') == 0 then
  return {-3}
end
local base = count == 1 and topic or '{' .. topic .. '}'
local start = stored and '0' or ARGV[4]
local made = stored and 0 or 1
local function has(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if fails(groups) then return false end
  for _, info in ipairs(groups) do
    if info[2] == group then return true end
  end
  return false
end
-- Of each partition's entries, how many were there or gone before and are not for this group.
local foreign = {}
for p = 0, count - 1 do
  local stream, inbox = partition(base, count, p), partition(ARGV[7], count, p)
  if not has(stream) then
    if not create then return {-2} end
    redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
    made = 1
  end
  local info, facts = redis.call('XINFO', 'STREAM', stream), {}
  for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
  foreign[p + 1] = facts['entries-added'] - (start == '$' and 0 or facts['length'])
  if not has(inbox) then redis.call('XGROUP', 'CREATE', inbox, group, '0', 'MKSTREAM') end
end
if not stored and create then
  stored = '{"format":1,"declared_at":' .. number(clock()) .. ',"base":[' .. table.concat(foreign, ',') .. '],"settings":' .. ARGV[3] .. '}'
  redis.call('HSET', KEYS[2], group, stored)
end
return {made, stored or ''}
