# superctl in bash: made from the declarations of its command line, not by hand.
_superctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} at='' skip='' word i found=''
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $skip ]]; then skip=''; continue; fi
        case $word in
        --config|--grep|--lines|--since|--socket|--term-timeout|--timeout|-n) skip=$word; continue ;;
        --) return ;;
        esac
        case $at/$word in
        /status|/start|/stop|/restart|/reload|/signal|/drain|/undrain|/logs|/why|/crashes|/events|/check|/plan|/graph|/doctor|/shutdown|/upgrade|/version) at=$at/$word ;;
        esac
    done
    case $at:$skip in
    :--socket) found=$(compgen -f -- "$cur") ;;
    :--timeout) found=$() ;;
    /status:--socket) found=$(compgen -f -- "$cur") ;;
    /status:--timeout) found=$() ;;
    /start:--socket) found=$(compgen -f -- "$cur") ;;
    /start:--timeout) found=$() ;;
    /stop:--socket) found=$(compgen -f -- "$cur") ;;
    /stop:--timeout) found=$() ;;
    /restart:--socket) found=$(compgen -f -- "$cur") ;;
    /restart:--timeout) found=$() ;;
    /reload:--socket) found=$(compgen -f -- "$cur") ;;
    /reload:--timeout) found=$() ;;
    /signal:--socket) found=$(compgen -f -- "$cur") ;;
    /signal:--timeout) found=$() ;;
    /drain:--socket) found=$(compgen -f -- "$cur") ;;
    /drain:--timeout) found=$() ;;
    /undrain:--socket) found=$(compgen -f -- "$cur") ;;
    /undrain:--timeout) found=$() ;;
    /logs:--lines|/logs:-n) found=$() ;;
    /logs:--since) found=$() ;;
    /logs:--grep) found=$() ;;
    /logs:--socket) found=$(compgen -f -- "$cur") ;;
    /logs:--timeout) found=$() ;;
    /why:--lines|/why:-n) found=$() ;;
    /why:--socket) found=$(compgen -f -- "$cur") ;;
    /why:--timeout) found=$() ;;
    /crashes:--socket) found=$(compgen -f -- "$cur") ;;
    /crashes:--timeout) found=$() ;;
    /events:--lines|/events:-n) found=$() ;;
    /events:--socket) found=$(compgen -f -- "$cur") ;;
    /events:--timeout) found=$() ;;
    /check:--config) found=$(compgen -f -- "$cur") ;;
    /check:--term-timeout) found=$() ;;
    /check:--socket) found=$(compgen -f -- "$cur") ;;
    /check:--timeout) found=$() ;;
    /plan:--config) found=$(compgen -f -- "$cur") ;;
    /plan:--socket) found=$(compgen -f -- "$cur") ;;
    /plan:--timeout) found=$() ;;
    /graph:--socket) found=$(compgen -f -- "$cur") ;;
    /graph:--timeout) found=$() ;;
    /doctor:--config) found=$(compgen -f -- "$cur") ;;
    /doctor:--socket) found=$(compgen -f -- "$cur") ;;
    /doctor:--timeout) found=$() ;;
    /shutdown:--socket) found=$(compgen -f -- "$cur") ;;
    /shutdown:--timeout) found=$() ;;
    /upgrade:--socket) found=$(compgen -f -- "$cur") ;;
    /upgrade:--timeout) found=$() ;;
    /version:--socket) found=$(compgen -f -- "$cur") ;;
    /version:--timeout) found=$() ;;
    *:)
        case $at in
        "")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h --version -V' -- "$cur")
            else found=$(compgen -W 'status start stop restart reload signal drain undrain logs why crashes events check plan graph doctor shutdown upgrade version' -- "$cur"); fi ;;
        "/status")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/start")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/stop")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --now --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/restart")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --now --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/reload")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/signal")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/drain")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/undrain")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --no-wait --wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/logs")
            if [[ $cur == -* ]]; then found=$(compgen -W '--follow -f --lines -n --since --grep --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/why")
            if [[ $cur == -* ]]; then found=$(compgen -W '--all --lines -n --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/crashes")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/events")
            if [[ $cur == -* ]]; then found=$(compgen -W '--follow -f --lines -n --socket --json --timeout --help -h' -- "$cur")
            else found=$(compgen -W "$(superctl status 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"); fi ;;
        "/check")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --term-timeout --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/plan")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --max-stop-seconds --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/graph")
            if [[ $cur == -* ]]; then found=$(compgen -W '--dot --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/doctor")
            if [[ $cur == -* ]]; then found=$(compgen -W '--config --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/shutdown")
            if [[ $cur == -* ]]; then found=$(compgen -W '--now --leave-running --no-wait --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/upgrade")
            if [[ $cur == -* ]]; then found=$(compgen -W '--if-changed --socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        "/version")
            if [[ $cur == -* ]]; then found=$(compgen -W '--socket --json --timeout --help -h' -- "$cur")
            else found=$(:); fi ;;
        esac ;;
    esac
    local IFS=$'\n'
    COMPREPLY=($found)
}
complete -o filenames -F _superctl superctl
