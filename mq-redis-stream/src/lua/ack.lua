-- KEYS members, lanes, stream, started  ARGV group, me, lane or '', delete, prefix of start marks or '', ids …
-- → how many were pending, -1 session lost, -2 lane lost
if not live(KEYS[1], ARGV[2]) then return -1 end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[2] then return -2 end
local done = redis.call('XACK', KEYS[3], ARGV[1], unpack(ARGV, 6))
if ARGV[4] == '1' then redis.call('XDEL', KEYS[3], unpack(ARGV, 6)) end
if ARGV[5] ~= '' then
  for i = 6, #ARGV do redis.call('HDEL', KEYS[4], ARGV[5] .. ARGV[i], 'hold:' .. ARGV[5] .. ARGV[i]) end
end
return done
