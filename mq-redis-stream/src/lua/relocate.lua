-- Stores a copy, then settles the source; nothing if the source is not mine any more.
-- KEYS members, lanes, source, started, target, delayed
-- ARGV group, me, lane or '', delete, start mark, id, delay or '', then order and entry, or the fields
-- → 1, 0 no longer pending for me, -1 session lost, -2 lane lost
if not live(KEYS[1], ARGV[2]) then return -1 end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[2] then return -2 end
local row = redis.call('XPENDING', KEYS[3], ARGV[1], ARGV[6], ARGV[6], 1)[1]
if not row or row[2] ~= ARGV[2] then return 0 end
if ARGV[7] == '' then
  redis.call('XADD', KEYS[5], '*', unpack(ARGV, 8))
else
  redis.call('ZADD', KEYS[6], number(clock() + ARGV[7]), ARGV[8])
end
redis.call('XACK', KEYS[3], ARGV[1], ARGV[6])
if ARGV[4] == '1' then redis.call('XDEL', KEYS[3], ARGV[6]) end
redis.call('HDEL', KEYS[4], ARGV[5], 'hold:' .. ARGV[5])
return 1
