-- Holds a message until it is due by this clock.
-- KEYS stream, delayed  ARGV due, order and entry → an id, 1 when held, 0 no such topic
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if tonumber(ARGV[1]) <= clock() then
  return redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(string.sub(ARGV[2], 17)), 2))
end
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[2])
return 1
