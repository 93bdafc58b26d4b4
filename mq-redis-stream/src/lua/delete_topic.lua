-- KEYS meta, groups, delayed  ARGV partitions, topic's base, group prefix → 1, 0 not there
local count, found = tonumber(ARGV[1]), redis.call('EXISTS', KEYS[1])
for _, group in ipairs(redis.call('HKEYS', KEYS[2])) do
  local base = ARGV[3] .. group .. '..'
  for _, name in ipairs({'members', 'lanes', 'started', 'delayed', 'dead'}) do
    redis.call('UNLINK', base .. name)
  end
  for p = 0, count - 1 do redis.call('UNLINK', partition(base .. 'inbox', count, p)) end
end
for p = 0, count - 1 do
  found = math.max(found, redis.call('UNLINK', partition(ARGV[2], count, p)))
end
for i = 1, 3 do redis.call('UNLINK', KEYS[i]) end
return found
