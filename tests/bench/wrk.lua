-- Sends the requests of a file, chosen at random; each is behind its length in ten digits.
local heads, tails, count, sent = {}, {}, 0, 0
local unique

function init(args)
    local file = assert(io.open(args[1], "rb"))
    local mark = args[2]
    unique = args[3]
    while true do
        local length = file:read(10)
        if not length then break end
        local request = file:read(tonumber(length))
        count = count + 1
        local from, through = request:find(mark, 1, true)
        if from then
            heads[count], tails[count] = request:sub(1, from - 1), request:sub(through + 1)
        else
            heads[count] = request
        end
    end
    file:close()
    math.randomseed(os.time())
end

function request()
    local place = math.random(count)
    local tail = tails[place]
    if not tail then return heads[place] end
    sent = sent + 1
    return heads[place] .. unique .. sent .. tail
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "\nresult %d %d %d %d %d\n", summary.requests, summary.duration,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
