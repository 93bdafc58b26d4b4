-- Adds a message that some group will get.
-- KEYS stream  ARGV fields → an id, 0 no such topic, -1 no group
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if fails(groups) then return 0 end
if #groups == 0 then return -1 end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV))
