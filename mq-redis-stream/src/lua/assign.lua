-- Takes free lanes up to this member's share.
-- KEYS members, lanes  ARGV me, partitions → {1, share, generation, my lanes}, {-1} session lost
local me, count = ARGV[1], tonumber(ARGV[2])
if not live(KEYS[1], me) then return {-1} end
local names = redis.call('ZRANGEBYSCORE', KEYS[1], 1, '+inf')
table.sort(names)
local present, index = {}, 0
for i, name in ipairs(names) do
  present[name] = true
  if name == me then index = i - 1 end
end
local share = math.floor(count / #names)
if index < count % #names then share = share + 1 end
local owners, all = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do owners[all[i]] = all[i + 1] end
local mine, free = {}, {}
for p = 0, count - 1 do
  local owner = owners[tostring(p)]
  if owner == me then
    mine[#mine + 1] = p
  elseif not owner or not present[owner] then
    free[#free + 1] = p
  end
end
for _, p in ipairs(free) do
  if #mine >= share then break end
  redis.call('HSET', KEYS[2], p, me)
  mine[#mine + 1] = p
end
return {1, share, tonumber(owners['generation']) or 0, mine}
