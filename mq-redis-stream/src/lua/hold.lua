-- Keeps a message here: records its next attempt, and when it comes again, in place of what was counted before.
-- KEYS members, lanes, source, started  ARGV group, me, lane or '', start mark, id, delay, history
-- → 1, 0 no longer pending for me, -1 session lost, -2 lane lost
if not live(KEYS[1], ARGV[2]) then return -1 end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[2] then return -2 end
local row = redis.call('XPENDING', KEYS[3], ARGV[1], ARGV[5], ARGV[5], 1)[1]
if not row or row[2] ~= ARGV[2] then return 0 end
redis.call('XCLAIM', KEYS[3], ARGV[1], ARGV[2], 0, ARGV[5], 'RETRYCOUNT', 1, 'JUSTID')
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('HSET', KEYS[4], 'hold:' .. ARGV[4], number(clock() + ARGV[6]) .. ' ' .. ARGV[7])
return 1
