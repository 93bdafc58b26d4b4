-- KEYS groups, members, lanes, started, delayed, dead  ARGV group, partitions, topic's base, inbox's base
-- → 1, 0 not there
local count, found = tonumber(ARGV[2]), redis.call('HDEL', KEYS[1], ARGV[1])
for p = 0, count - 1 do
  local reply = redis.pcall('XGROUP', 'DESTROY', partition(ARGV[3], count, p), ARGV[1])
  if not fails(reply) and reply == 1 then found = 1 end
  redis.call('UNLINK', partition(ARGV[4], count, p))
end
for i = 2, 6 do redis.call('UNLINK', KEYS[i]) end
return found
