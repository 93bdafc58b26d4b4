-- KEYS lanes  ARGV me, lane → whether it was mine
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
return 1
