-- Asks for one file after another, checks each body, and prints in the end what went wrong, as JSON.
-- Arguments: paths and the files whose content they have to give, in turn.
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    requests, known = {}, {}
    for at = 1, #args, 2 do
        local file = assert(io.open(args[at + 1], "rb"))
        known[file:read("*a")] = true
        file:close()
        table.insert(requests, wrk.format("GET", args[at]))
    end
    turn, wrong = 0, 0
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function delay()
    return math.random(0, 40) -- milliseconds: between two requests connections are at rest, and others get the CPU
end

function response(status, headers, body)
    if status ~= 200 or not known[body] then
        wrong = wrong + 1
    end
end

function done(summary, latency, seconds)
    local wrong = 0
    for _, thread in ipairs(threads) do
        wrong = wrong + thread:get("wrong")
    end
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "wrong": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
        summary.requests, wrong, errors.connect, errors.read, errors.write, errors.status, errors.timeout
    ))
end
