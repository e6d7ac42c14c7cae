/* What a board offers to main.c. The build defines, from the board's TOML file:
 * MJ_BOARD_TITLE, MJ_BOARD_CLOCK_HZ, MJ_BOARD_INTERRUPTS, MJ_BOARD_FLASH_WAIT_STATES, MJ_BOARD_FLASH_BYTES,
 * MJ_BOARD_REGISTERS (a header), MJ_BOARD_SUPPLY_SMPS (0 or 1), MJ_RAM_BYTES (the largest arena), MJ_CONSOLE (name of
 * the USART), MJ_CONSOLE_IS_LOW_POWER (1 for an LPUART), MJ_CONSOLE_BAUD, MJ_CONSOLE_{TX,RX}_{PORT,PIN,ALTERNATE},
 * MJ_BOARD_PORTS (a bit for each port in use, port A is bit 0) and, where the board has a pin for the timestamps of
 * energy mode, MJ_TIMESTAMP_{PORT,PIN}. */
#ifndef MJ_BOARD_H
#define MJ_BOARD_H
#include <stddef.h>
#include <stdint.h>

#define MJ_JOIN_OF(a, b) a##b
#define MJ_JOIN(a, b) MJ_JOIN_OF(a, b)

/* clock_<board>.c: full speed, caches on. Returns the frequency of the USART's clock in Hz. */
uint32_t mj_clock_start(void);
/* clock_<board>.c: clocks of the ports in MJ_BOARD_PORTS and of the console's USART. */
void mj_clock_console(void);

/* usart.c */
enum { MJ_INTERRUPT = 3 }; /* the character Ctrl-C */
void mj_console_start(uint32_t kernel_hz, uint32_t baud);
void mj_console_baud(uint32_t baud); /* after the last character has left */
void mj_console_flush(void);         /* waits until the last character has left */
void mj_console_put(char character);
int mj_console_ready(void); /* 1 when a character waits */
char mj_console_get(void);
int mj_console_interrupted(void); /* 1 when Ctrl-C has come, 128 other characters are kept; for use between inferences */
int mj_console_lost(void);        /* 1 when more came; says it once */

/* timestamp.c */
uint64_t mj_time(void);                /* core cycles since the start; call it before the 32-bit counter wraps */
int mj_timestamp_mode(int with_energy); /* 0 when the board has no pin for it */
int mj_timestamp_is_energy(void);
void mj_timestamp(uint64_t cycles); /* performance mode: prints the microseconds; energy mode: a falling edge now */

/* print.c: numbers and text without a C library; lines end with CR LF */
void mj_print(const char *text);
void mj_print_unsigned(uint32_t value);
void mj_print_unsigned64(uint64_t value);
void mj_print_integer(int32_t value);
void mj_print_hex(uint32_t value, int digits);
void mj_print_float(float value, int decimals); /* decimals 0..6; nan, inf and out of range are named */

/* startup.c */
int mj_stack_is_intact(void);     /* 0 when the lowest words of the stack were overwritten */
uint32_t mj_stack_peak(void);     /* bytes of stack ever used */
int mj_arena_is_fenced(void);     /* 0 when a word beside the arena was overwritten */
void mj_arena_fence(void);
void mj_halt(void);               /* endless loop after a fault; the reason has been printed */

/* The cycle counter of the data watchpoint unit; wraps after 2^32 cycles. */
void mj_cycles_start(void);
uint32_t mj_cycles(void);

/* The mailbox of the debug probe: a host writes the picture to MJ_INPUT, sets request, and waits until status is DONE. */
enum { MJ_MAIL_MAGIC = 0x4D4A4D42, MJ_MAIL_VERSION = 1 };
enum { MJ_MAIL_STARTING = 0, MJ_MAIL_READY = 1, MJ_MAIL_BUSY = 2, MJ_MAIL_DONE = 3, MJ_MAIL_FAILED = 4 };
typedef struct {
    uint32_t magic, version;
    uint32_t request;       /* the host writes 1; the firmware clears it */
    uint32_t status;
    int32_t error;          /* mj_status of the last run, or of the start */
    uint32_t runs, cycles;  /* inferences so far; cycles of the last one */
    const void *logits, *probabilities;
    int32_t class_index;
} mj_mailbox;
extern volatile mj_mailbox mj_mail;
/* Called once per turn of the main loop: the place where an emulator or a probe may stop the core. */
void mj_idle(void);

#endif
