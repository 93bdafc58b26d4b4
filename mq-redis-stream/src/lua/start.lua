-- KEYS members, lanes, source, started  ARGV group, me, lane or '', start mark, id
if not live(KEYS[1], ARGV[2]) then return -1 end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[2] then return -2 end
local row = redis.call('XPENDING', KEYS[3], ARGV[1], ARGV[5], ARGV[5], 1)[1]
if not row or row[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[4], ARGV[4], 1)
return 1
