-- Removes from one stream what every group has settled, and with retention only what is older.
-- KEYS stream, meta  ARGV grace without groups, limit → how many
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), seq
end
local function below(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
local function after(id)
  local ms, seq = parts(id)
  if #seq > 15 then return id end
  return number(ms) .. '-' .. number(seq + 1)
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if fails(groups) then return 0 end
local keep
for _, info in ipairs(groups) do
  local first = info[6] > 0 and redis.call('XPENDING', KEYS[1], info[2])[2] or after(info[8])
  if not keep or below(first, keep) then keep = first end
end
local now = clock()
if not keep then keep = number(now - ARGV[1]) .. '-0' end
local retention = redis.call('HGET', KEYS[2], 'retention')
if retention then
  local edge = number(math.max(0, now - retention)) .. '-0'
  if below(edge, keep) then keep = edge end
end
local done = redis.call('XTRIM', KEYS[1], 'MINID', '~', keep, 'LIMIT', ARGV[2])
if done < tonumber(ARGV[2]) then done = done + redis.call('XTRIM', KEYS[1], 'MINID', '=', keep) end
return done
