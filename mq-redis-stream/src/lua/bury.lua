-- Removes members that are gone and hold nothing.
-- KEYS members  ARGV group, partitions, topic's base, inbox's base → how many are left
local count = tonumber(ARGV[2])
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], -1, 0, 'LIMIT', 0, count > 64 and 1 or 16)
for _, name in ipairs(gone) do
  local holds = false
  for p = 0, count - 1 do
    for i = 3, 4 do
      local stream = partition(ARGV[i], count, p)
      if #redis.call('XPENDING', stream, ARGV[1], '-', '+', 1, name) > 0 then
        holds = true
      else
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], name)
      end
    end
  end
  if not holds then redis.call('ZREM', KEYS[1], name) end
end
return redis.call('ZCOUNT', KEYS[1], -1, 0)
