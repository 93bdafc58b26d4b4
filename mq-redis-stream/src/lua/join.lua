-- KEYS members, lanes  ARGV me, session, ordered
local now = clock()
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 1, number(now - 1))) do
  redis.call('ZADD', KEYS[1], 0, name)
end
redis.call('ZADD', KEYS[1], number(now + ARGV[2]), ARGV[1])
if ARGV[3] == '1' then redis.call('HINCRBY', KEYS[2], 'generation', 1) end
return redis.call('ZCOUNT', KEYS[1], -1, 0)
