-- Names the ephemeral groups that nobody has used for a while.
-- KEYS groups  ARGV group prefix, patience in ms
local edge, found = clock() - ARGV[2], {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local good, stored = pcall(cjson.decode, all[i + 1])
  if good and stored.settings and stored.settings.ephemeral and stored.declared_at < edge then
    local used = redis.call('ZCOUNT', ARGV[1] .. all[i] .. '..members', number(edge), '+inf')
    if used == 0 then found[#found + 1] = all[i] end
  end
end
return found
