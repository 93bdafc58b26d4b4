-- KEYS members, lanes  ARGV me, group, partitions, topic's base, inbox's base
-- What is held stays pending under the name, marked as given back, until a member takes it.
local me, count, holds = ARGV[1], tonumber(ARGV[3]), false
for p = 0, count - 1 do
  for i = 4, 5 do
    local stream = partition(ARGV[i], count, p)
    local rows = redis.pcall('XPENDING', stream, ARGV[2], '-', '+', 1, me)
    if not fails(rows) then
      if #rows > 0 then
        holds = true
      else
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[2], me)
      end
    end
  end
end
if live(KEYS[1], me) then
  if holds then redis.call('ZADD', KEYS[1], -1, me) else redis.call('ZREM', KEYS[1], me) end
end
local owners, freed = redis.call('HGETALL', KEYS[2]), 0
for i = 1, #owners, 2 do
  if owners[i + 1] == me then
    redis.call('HDEL', KEYS[2], owners[i])
    freed = freed + 1
  end
end
if #owners > 0 then redis.call('HINCRBY', KEYS[2], 'generation', 1) end
return freed
