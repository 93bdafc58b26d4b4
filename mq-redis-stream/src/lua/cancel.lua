-- Removes a message from a part of what waits.
-- KEYS delayed  ARGV cursor, id → {next cursor, removed}
local page = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local removed = 0
for i = 1, #page[2], 2 do
  local blob = page[2][i]
  if string.find(blob, ARGV[2], 17, true) then
    local entry = cmsgpack.unpack(string.sub(blob, 17))
    for f = 2, #entry, 2 do
      if entry[f] == 'mq-id' and entry[f + 1] == ARGV[2] then
        removed = removed + redis.call('ZREM', KEYS[1], blob)
        break
      end
    end
  end
end
return {page[1], removed}
