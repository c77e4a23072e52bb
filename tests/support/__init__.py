"""What tests share: servers, stores, processes and models to try ours against.

batch_files        files, lines and results of batches
batch_fleet        a fleet that runs batches on a moved clock: what is told of each, and what `cost` says later
batch_gateways     a gateway that takes batches, and a hand in place of the worker that would run them
batch_hands        a hand in place of the worker that runs batches: it says how one stands, and ends it
batch_lines        lines of batches as a worker sends them, and a server that answers when a test lets it
batch_process      a worker of batches as a process, to be killed
batch_runs         attempts at batches against a scripted gateway
browser            a browser driven over WebDriver's own wire
call_counts        how much something does, by the functions that it calls
checkout           where the checkout is, whoever asks, and its scripts as modules
client_bodies      what real client libraries send, recorded
command_server     our commands and Modal's in processes that need not read them again
counting_files     how often a piece of work asks the file system for something
counting_sqlite    counts what SQLite does for an answer, whoever asks
counting_stores    a deployment's dicts and queue that count what is asked of them
crash_driver       publishes and removes models in children that are killed at each step
crash_points       ends the work of this process at its n-th change to the disk
deep_bodies        bodies that are wrong below their first level, or only look so, and what a real Ollama said of each
deployments        a deployment on the control plane, and what is asked of it by the real client
dialects           how each kind of client asks, and the pieces of an answer to it
disks              a small disk of one's own, and what fills it up
document_commands  what the documents show to be run
exhaustive         every order of steps of programs that share a store, with equal states merged
exhaustive_programs  the programs of such a search, and the places where they stand
failing_stores     stores that fail and stores that hang, around real ones
file_modes         files that their modes keep from us, also where the tests are run by root
fork_server        Python processes that have read what others would read again, and fork
gateway_process    a gateway in a process of its own, to look at its memory from outside
gateways           a gateway over real sockets, in this process
go_answers         what Go makes of request bodies, recorded, and Go itself where it is there
hostile_models     models that a registry may hand out to do harm
interleaving       threads that move one at a time, in an order that the test chooses
killed_appender    appends results of a batch in a process that is killed
killed_batches     a batch whose worker, gateway and server are killed over and over
killed_worker      a worker in a process of its own, which kills itself at the chosen moment
large_gateway      a gateway with hundreds of models, dozens of keys and containers
large_models       models of the sizes that people have, without their bytes
ledger_proof       the ledger's promises in every order of steps, as `scripts/prove` prints it
llama_hosts        hosts of the real engine, with toy weights, in processes of their own
local_stack        runs `ollama-modal` as people do
many_jobs          gateways with many jobs behind them
models_directory   small models, and a models directory filled with them
month              a month of a fleet, played in seconds
month_report       the played month on one page, as `scripts/month` prints it
month_servers      the servers of that month
moved_clock        the machine's clock, moved on by a test's hand
nginx              a real nginx in front of a gateway
ollama_servers     the simulator as a process, and a real Ollama where OLLAMA_BIN names it
ops_api            an ops API on a store of its own, called directly or served
past_jobs          a ledger's file with many jobs that have ended, as an older version left it
person             a person at a terminal of their own, who types and sees what is written there
processes          real processes: free ports, who runs, a driver that says what we like
pull_setup         a pull from a loopback registry, through ledger and worker
sample_history     four weeks that a deployment might have had, for the page's picture
scripted_server    a server that does as a test says, down to the byte
slow_proxy         a proxy in front of a gateway, below a folder and slow where a test says so
stored_keys        which entries of the table of keys a stored key belongs to
stores             a ledger on a store of its own, and what is done to it
tiers              two tiers as tests route between them
tiny_llama         a model of a hundred kilobytes that llama.cpp runs
tls                a certificate of a test's own, and a port that speaks TLS for a server that does not
waiting            waiting for what other threads and processes do, and measuring beside them
webhooks           a webhook on loopback, which hears what it is told
workers            workers in threads, whose leases run out only where a test moves the clock
"""
