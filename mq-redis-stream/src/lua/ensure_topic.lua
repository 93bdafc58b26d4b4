-- KEYS meta  ARGV topic, partitions or '', retention or '', create
-- → {partitions, retention or '', made}, {-1} not there, {-2, key} another type
local meta, topic, create = KEYS[1], ARGV[1], ARGV[4] == '1'
local count = redis.call('HGET', meta, 'partitions')
local retention = redis.call('HGET', meta, 'retention')
local made = 0
if not count then
  local found = redis.call('EXISTS', topic) == 1
  if not found and not create then return {-1} end
  count = (found or ARGV[2] == '') and '1' or ARGV[2]
  if create then
    retention = ARGV[3] ~= '' and ARGV[3] or false
    redis.call('HSET', meta, 'format', 1, 'partitions', count)
    if retention then redis.call('HSET', meta, 'retention', retention) end
    made = 1
  end
end
count = tonumber(count)
local base = count == 1 and topic or '{' .. topic .. '}'
for p = 0, count - 1 do
  local stream = partition(base, count, p)
  local kind = redis.call('TYPE', stream).ok
  if kind == 'none' then
    if not create then return {-1} end
    redis.call('XGROUP', 'CREATE', stream, 'mq', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'mq')
    made = 1
  elseif kind ~= 'stream' then
    return {-2, stream}
  end
end
return {count, retention or '', made}
