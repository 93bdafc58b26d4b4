-- Declares dead whoever holds something on a stream without being a member, if idle for long.
-- KEYS members, stream  ARGV group, session, lease, our prefix → how many
local found = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[1])) do
  local name, pending, idle = info[2], info[4], info[6]
  local ours = string.sub(name, 1, #ARGV[4]) == ARGV[4]
  local patience = tonumber(ours and ARGV[2] or ARGV[3])
  if idle > patience and not redis.call('ZSCORE', KEYS[1], name) then
    if pending > 0 then
      redis.call('ZADD', KEYS[1], 0, name)
      found = found + 1
    elseif ours then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], name)
    end
  end
end
return found
