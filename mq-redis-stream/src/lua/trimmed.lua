-- Counts what was removed from a stream before a group read it, and has the group's count of what it
-- read include it, so that it is told once.
-- KEYS stream, groups  ARGV group, partition → how many
local stored = redis.call('HGET', KEYS[2], ARGV[1])
local groups, stream = redis.pcall('XINFO', 'GROUPS', KEYS[1]), redis.pcall('XINFO', 'STREAM', KEYS[1])
if not stored or fails(groups) or fails(stream) then return 0 end
stored = cjson.decode(stored)
local base, declared = stored.base, stored.declared_at
base = base and base[tonumber(ARGV[2]) + 1]
if not base then return 0 end
local facts = {}
for i = 1, #stream, 2 do facts[stream[i]] = stream[i + 1] end
local removed = facts['entries-added'] - facts['length']
for _, info in ipairs(groups) do
  local last, read = info[8], math.max(info[10] or 0, base)
  -- Who has read, and of whom the server does not know how much, is not judged.
  local unsure = not info[10] and tonumber(string.match(last, '^%d+')) > declared
  if info[2] == ARGV[1] and not unsure and removed > read
    and #redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', 1) == 0 then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', removed)
    return removed - read
  end
end
return 0
